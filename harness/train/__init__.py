"""Training one student (or several of equal structure as lanes)."""
