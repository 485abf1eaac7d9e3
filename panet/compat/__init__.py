"""Other packages' faults and private names, one file for each, named after what it mends.

Each file says what is wrong, in which version that was seen, and when the file can go; its test in
``tests/compat`` fails once it can. Nothing here imports anything else of this project.
"""
