"""Other packages' faults and private names, one file for each, named after what it mends.

Each file says what is wrong, in which version that was seen, and when the file can go. Its test in
``tests/compat`` fails once it can, as far as a test can tell, or once what it uses has changed.
Nothing here imports anything else of this project.
"""
