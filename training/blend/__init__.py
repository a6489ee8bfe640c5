"""Training of a style that any picture gives: the style encoder, the blending generator, the encoder of photos."""
