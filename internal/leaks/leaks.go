package leaks

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"
)

// module is in front of the names of our functions in a stack.
const module = "multiraft/"

// patience is for how long goroutines that were told to end may take, on a machine
// that does much else.
const patience = 10 * time.Second

// Main runs the tests and ends the process: with an error also when all is well but
// for goroutines that are left behind.
func Main(m *testing.M) {
	code := m.Run()
	if code == 0 {
		if left := wait(patience); len(left) > 0 {
			fmt.Fprintf(os.Stderr, "%d goroutines are left behind:\n\n%s\n", len(left), bytes.Join(left, []byte("\n\n")))
			code = 1
		}
	}
	os.Exit(code)
}

// wait returns the stacks of our goroutines that are still there after some time.
func wait(patience time.Duration) [][]byte {
	for until := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		left := others()
		if len(left) == 0 || time.Now().After(until) {
			return left
		}
	}
}

// others returns the stacks of all goroutines of ours but the calling one and the
// one that runs the tests.
func others() (left [][]byte) {
	buf := make([]byte, 64<<10)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	for _, stack := range bytes.Split(buf, []byte("\n\n"))[1:] { // the first is the caller
		ours := bytes.Contains(stack, []byte("\n"+module)) || bytes.Contains(stack, []byte("created by "+module))
		if ours && !bytes.Contains(stack, []byte("\n"+module+"internal/leaks.Main(")) {
			left = append(left, stack)
		}
	}
	return left
}
