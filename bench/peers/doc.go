// Package peers is the module of programs that compare this project with others
// of its kind. It is apart from the engine's module, so that an embedder of the
// engine inherits none of what is compared with.
//
//	corecost ── builds and runs, in turn ──▶ core          multiraft/group, multiraft/wire
//	                                    ├──▶ etcdraft      go.etcd.io/raft/v3 v3.6.0
//	                                    ├──▶ etcdraft      go.etcd.io/raft/v3 v3.7.0
//	                                    └──▶ group.test    benchmarks of unexported functions
//
// One process measures one operation once, so that no library sees the heap of
// another, and two versions of one module can take part: etcdraft is a module of
// its own with two module files, and is built with each of them.
//
// The operations and what is asked of this project in each are in corecost; how
// each library does them is in core and etcdraft, function by function the same.
package peers
