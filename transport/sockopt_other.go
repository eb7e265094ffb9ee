//go:build !linux

package transport

import (
	"net"
	"time"
)

// setUserTimeout has nothing to set here; keep-alive and the write deadline do.
func setUserTimeout(*net.TCPConn, time.Duration) error { return nil }
