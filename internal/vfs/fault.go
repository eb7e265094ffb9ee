package vfs

import "fmt"

// OpKind is what a call wants to do.
type OpKind uint8

// The kinds of calls that a [Hook] sees.
const (
	OpMkdirAll OpKind = iota + 1
	OpCreate
	OpOpen
	OpRemove
	OpRename
	OpList
	OpSyncDir
	OpLock
	OpRead
	OpWrite
	OpSync
	OpSize
	OpTruncate
)

var opNames = [...]string{
	OpMkdirAll: "mkdir", OpCreate: "create", OpOpen: "open", OpRemove: "remove", OpRename: "rename", OpList: "list",
	OpSyncDir: "syncdir", OpLock: "lock", OpRead: "read", OpWrite: "write", OpSync: "sync", OpSize: "size",
	OpTruncate: "truncate",
}

func (k OpKind) String() string {
	if int(k) < len(opNames) && opNames[k] != "" {
		return opNames[k]
	}
	return fmt.Sprintf("op(%d)", uint8(k))
}

// Mutates says whether such a call changes what is visible or durable.
func (k OpKind) Mutates() bool {
	switch k {
	case OpMkdirAll, OpCreate, OpRemove, OpRename, OpSyncDir, OpWrite, OpSync, OpTruncate:
		return true
	}
	return false
}

// Op is a call that is about to be made.
type Op struct {
	Kind OpKind
	Name string
	To   string // of a rename
	// Offset and Length are of a read or a write; of a truncation, Length is
	// the size wanted.
	Offset, Length int64
	// Call numbers the calls of one MemFS from 1.
	Call uint64
}

// Fault is what happens to a call. The zero value lets it through.
type Fault struct {
	// Err is what the call returns. Nothing is done, but for Written.
	Err error
	// Written is how many of a failing write's first bytes reach the file. It is
	// cut to the length of the write.
	Written int
	// Lie lets a call that mutates, other than Create, return success without
	// doing anything: a lost write, a disk that ignores flushes.
	Lie bool
	// Shift moves a write by that many bytes: a misdirected write. One that
	// would land before the start of the file lands at its start.
	Shift int64
	// Delay is added to what [MemFS.TakeDelay] returns: how long the call is
	// to have taken, in whatever unit the caller thinks.
	Delay uint64
}

// Hook decides what happens to a call. It runs before the call, without a lock
// held, on the caller's goroutine.
type Hook func(Op) Fault

// FailCall returns a hook that fails the call with number k.
func FailCall(k uint64, err error) Hook {
	return func(op Op) Fault {
		if op.Call == k {
			return Fault{Err: err}
		}
		return Fault{}
	}
}

// FailFrom returns a hook that fails every call that mutates from number k on:
// a disk that has gone read-only.
func FailFrom(k uint64, err error) Hook {
	return func(op Op) Fault {
		if op.Call >= k && op.Kind.Mutates() {
			return Fault{Err: err}
		}
		return Fault{}
	}
}
