"""The exact programs of a question: as they stand, as a second computation, written out, compared."""
