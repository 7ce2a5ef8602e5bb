"""Files that mean harm: bombs, and real files with something wrong in them, made anew each time from a number.

Tests, fuzzing and `bench hostile` share it. Nothing here decodes anything.
"""
