"""Engines from outside: started, watched, started again, and given their cores."""
