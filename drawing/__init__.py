"""How a face is drawn from its own pixels: warp, tone, strokes, compose; each stage a pure function in a file of its own."""
