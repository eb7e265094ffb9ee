package leaks

import (
	"bytes"
	"testing"
	"time"
)

func TestWait(t *testing.T) {
	if left := wait(patience); len(left) != 0 {
		t.Fatalf("before anything was started:\n%s", bytes.Join(left, nil))
	}
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		<-end
		close(ended)
	}()
	if left := wait(time.Millisecond); len(left) != 1 || !bytes.Contains(left[0], []byte("leaks.TestWait")) {
		t.Fatalf("%d goroutines:\n%s", len(left), bytes.Join(left, nil))
	}
	close(end)
	<-ended
	// E1: it may be on its way still.
	if left := wait(patience); len(left) != 0 {
		t.Fatalf("after it ended:\n%s", bytes.Join(left, nil))
	}
}

// TestMain shows that the tests of a package without goroutines pass.
func TestMain(m *testing.M) { Main(m) }
