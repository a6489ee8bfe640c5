"""All that is known of a face before anything is drawn: place, landmarks, parts, alignment, way through a clip."""
