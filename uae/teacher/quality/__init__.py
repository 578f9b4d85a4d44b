"""Are the labels worth training on? Figures, verdict, page."""
