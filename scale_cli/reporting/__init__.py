"""Results -> text and pictures. Pure functions: values in, a table or a file out."""
