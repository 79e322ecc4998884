"""Lets a program read and write UTF-8, whatever the locale: job files, records and paths are UTF-8.

In the locale C, Python takes UTF-8 by itself, unless PYTHONUTF8 forbids it; in one of another
encoding it takes that one, and mistakes every file that is not ASCII. Only the standard library is
imported: this must run where a foreign package shadows ours.
"""

import codecs
import locale
import os
import sys


def take_utf8() -> None:
    """Start this program anew in Python's UTF-8 mode, if its locale has another encoding. What it
    starts inherits the mode."""
    encoding = codecs.lookup(locale.getpreferredencoding(False)).name
    if sys.flags.utf8_mode or encoding == "utf-8" == sys.getfilesystemencoding():
        return
    os.environ["PYTHONUTF8"] = "1"
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
