"""The paper's claims tested on records of real runs, measurements of speed and exactness, and the records."""
