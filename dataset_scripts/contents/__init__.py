"""What is in the rows of a data set: counts of texts, facts of images, and what is there twice."""
