"""HTTP: one router a noun. Routers translate; the modules beside this package decide."""
