"""The part of spacy-elmo that runs in a spaCy pipeline."""
