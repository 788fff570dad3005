"""The one exception for bad input; everything else that is raised is a mistake of ours."""


class InvalidInput(ValueError):
    """Input that cannot be used, said in one line: the argument, its value, what is allowed.

    Library calls raise it; the command line prints its message and exits with status 2.
    """
