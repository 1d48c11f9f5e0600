"""A page in the browser that looks at a run: while it trains, or afterwards."""
