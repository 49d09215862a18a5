"""What the next step computes, for whom, and in which cells of the KV cache. Pure: no clock, no model, no bytes."""
