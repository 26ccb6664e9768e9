"""HTTP: one router for each noun. Routers translate; the domain modules decide."""
