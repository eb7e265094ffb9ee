module multiraft/internal/faulttest

go 1.25.0

require (
	github.com/anishathalye/porcupine v1.3.1
	github.com/hanwen/go-fuse/v2 v2.12.1
	go.uber.org/zap v1.28.0
	golang.org/x/sys v0.42.0
	multiraft v0.0.0
)

require (
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	go.uber.org/multierr v1.10.0 // indirect
)

replace multiraft => ../..
