"""Another user for the process: found before anything is opened, become after everything that takes root is."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass

import click


@dataclass(frozen=True)
class Account:
    """A user of this host."""

    name: str
    uid: int
    gid: int
    home: str

    @property
    def is_ours(self) -> bool:
        """Whether the process is this user already."""
        return os.geteuid() == self.uid

    def become(self) -> None:
        """Give up the rights of root for good: groups, group, user; HOME, USER and LOGNAME follow.

        Nothing happens where the process is this user already.  Threads started before would keep theirs.
        """
        if self.is_ours:
            return
        os.initgroups(self.name, self.gid)
        os.setgid(self.gid)
        # As root this sets the real and the saved one as well: there is no way back.
        os.setuid(self.uid)
        # libpq looks for its password file there.
        os.environ.update(HOME=self.home, USER=self.name, LOGNAME=self.name)


def account(name: str) -> Account:
    """A click type: a user of this host, whom this process may become."""
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        raise click.BadParameter(f"there is no user {name!r} on this host") from None
    user = Account(found.pw_name, found.pw_uid, found.pw_gid, found.pw_dir)
    if not user.is_ours and os.geteuid() != 0:
        raise click.BadParameter(f"only root can become {name!r}; this is the user with id {os.geteuid()}")
    return user
