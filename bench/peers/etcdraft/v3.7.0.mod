// Instead of go.mod: go build -modfile v3.7.0.mod -tags raft370
module multiraft/bench/peers/etcdraft

go 1.26

require (
	go.etcd.io/raft/v3 v3.7.0
	google.golang.org/protobuf v1.36.11
	multiraft/bench/peers v0.0.0
)

require golang.org/x/sys v0.42.0 // indirect

replace (
	multiraft => ../../..
	multiraft/bench/peers => ..
)
