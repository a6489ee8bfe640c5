"""All that is known of a face before anything is drawn: where it is, its landmarks, its parts, its alignment, its way through a clip."""
