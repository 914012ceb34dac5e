"""Every connection is an open file, of which a process may have only so many."""

from __future__ import annotations

TOO_MANY = "Too many open files"
"""What the system says of one more; a server's error may be the client's."""


def allow_many_files() -> None:
    """Raise this process's own bound on open files to the highest that it may set; nothing where there is none."""
    try:
        import resource
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft == hard:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError):
        # Some systems say that there is no bound and keep one.
        return
