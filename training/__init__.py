"""Labelled data in, bundle out."""
