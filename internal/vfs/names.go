package vfs

import (
	"slices"
	"strings"
)

// names is what a directory holds, sorted by name. Most directories are small,
// and are listed and cloned far more often than they change, which is what a
// slice is good at.
type names []named

// named is a name and what it stands for.
type named struct {
	base string
	entry
}

// find returns where a name is, or would be.
func (n names) find(base string) (at int, ok bool) {
	return slices.BinarySearchFunc(n, base, func(e named, base string) int { return strings.Compare(e.base, base) })
}

// get returns what a name stands for, and whether it is there.
func (n names) get(base string) (entry, bool) {
	if at, ok := n.find(base); ok {
		return n[at].entry, true
	}
	return entry{}, false
}

// of returns what a name stands for, nothing when it is not there.
func (n names) of(base string) entry {
	e, _ := n.get(base)
	return e
}

// set makes a name stand for e.
func (n *names) set(base string, e entry) {
	at, ok := n.find(base)
	if ok {
		(*n)[at].entry = e
		return
	}
	*n = slices.Insert(*n, at, named{base, e})
}

// drop takes a name out, if it is there.
func (n *names) drop(base string) {
	if at, ok := n.find(base); ok {
		*n = slices.Delete(*n, at, at+1)
	}
}

// bases returns the names.
func (n names) bases() []string {
	list := make([]string, len(n))
	for i := range n {
		list[i] = n[i].base
	}
	return list
}
