"""Tables, figures and documents from results. Functions without side effects, except for the files they write."""
