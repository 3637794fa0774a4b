"""A script's first lines that take away what Windows lacks: modules, calls, flags and signals. `forked_commands.Forked`
runs it.

Files can't be locked by `fcntl.flock` then, but by an emulation of Windows' LockFileEx, and open files can't be removed
or renamed. Libraries are imported before; this package is imported again. What Windows does otherwise, such as paths,
isn't emulated.
"""

MODULES = ("fcntl", "grp", "pwd", "resource", "termios")
CALLS = (
    "fork", "forkpty", "getuid", "geteuid", "getppid", "killpg", "link", "mkfifo", "nice", "pread", "pwrite",
    "sched_getaffinity", "setsid", "O_CLOEXEC", "O_DIRECTORY", "O_NOCTTY", "O_NOFOLLOW", "O_NONBLOCK",
)  # fmt: skip
"""Names in `os`."""
SIGNALS = (
    "SIGALRM", "SIGCHLD", "SIGHUP", "SIGKILL", "SIGUSR1", "SIG_BLOCK", "SIG_SETMASK", "SIG_UNBLOCK", "alarm",
    "pthread_kill", "pthread_sigmask", "setitimer", "sigwait",
)  # fmt: skip
"""Names in `signal`."""

SCRIPT = f"""
import ctypes, fcntl, os, signal, sys, types

for name in [name for name in sys.modules if name.partition(".")[0] == "figureground"]:
    del sys.modules[name]
for name in {MODULES}:
    sys.modules[name] = None
for module, names in ((os, {CALLS}), (signal, {SIGNALS})):
    for name in names:
        if hasattr(module, name):
            delattr(module, name)


class LockFileEx:
    code = 0

    def __call__(self, handle, flags, reserved, low, high, place):
        assert (reserved, low, high) == (0, 1, 0) and place._obj.offset_high > 0
        kind = (fcntl.LOCK_EX if flags & 2 else fcntl.LOCK_SH) | (fcntl.LOCK_NB if flags & 1 else 0)
        try:
            fcntl.flock(handle, kind)
        except BlockingIOError:
            LockFileEx.code = 33  # ERROR_LOCK_VIOLATION
            return 0
        return 1


ctypes.WinDLL = lambda name, use_last_error: types.SimpleNamespace(LockFileEx=LockFileEx())
ctypes.get_last_error = lambda: LockFileEx.code
sys.modules["msvcrt"] = types.SimpleNamespace(get_osfhandle=lambda handle: handle)


def is_open(path):
    there = os.path.realpath(path)
    links = (f"/proc/self/fd/{{fd}}" for fd in os.listdir("/proc/self/fd"))
    return any(os.path.lexists(link) and os.readlink(link) == there for link in links)


def refuse_open(call):
    def checked(path, *others, **more):
        if is_open(path):
            raise PermissionError(13, "the file is used by a process", str(path))
        return call(path, *others, **more)

    return checked


for name in ("unlink", "remove", "replace", "rename"):
    setattr(os, name, refuse_open(getattr(os, name)))
"""
