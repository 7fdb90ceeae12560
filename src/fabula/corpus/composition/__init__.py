"""What a corpus is made of: topics, languages, lengths, words, and what repeats in it."""
