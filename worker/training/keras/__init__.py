"""The TensorFlow side of the engine `tensorflow`: a folder that is run as a program, by another environment's Python."""
