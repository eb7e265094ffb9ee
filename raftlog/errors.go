package raftlog

import "errors"

// ErrLocked says that another store, in this process or another, has the
// directory open.
var ErrLocked = errors.New("directory is locked by another store")
