//go:build linux

package faulttest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// runEnv is the process id of the supervisor, in the process that runs the tests.
// Everything that has a name on the machine is named by it.
const runEnv = "MULTIRAFT_FAULTTEST_RUN"

// named returns a name for something that outlives processes.
func named(what string) string { return "faulttest-" + os.Getenv(runEnv) + "-" + what }

// supervised runs tests so that nothing is left behind, however they end. As
// root, it starts this program again in namespaces of its own for processes and
// mounts: when that process ends, by a panic or a time-out too, the kernel kills
// all that it started and unmounts all that it mounted, which detaches the loop
// devices. What has names in the file system is removed afterwards, also what a
// supervisor left that is dead.
func supervised(run func() int) int {
	if os.Geteuid() != 0 {
		return run()
	}
	if os.Getenv(runEnv) != "" {
		// Tools look for their own process there.
		if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
			fmt.Println("mount /proc:", err)
			return 1
		}
		return run()
	}
	if err := sweep(); err != nil {
		fmt.Println(err)
		return 1
	}
	code, err := supervise()
	if err = errors.Join(err, sweep()); err != nil {
		fmt.Println(err)
		return 1
	}
	return code
}

func supervise() (code int, err error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	tmp, err := os.MkdirTemp("", fmt.Sprintf("faulttest-%d-", os.Getpid()))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", runEnv, os.Getpid()), "TMPDIR="+tmp)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID, Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	// The tests are told to end by the same signals; sweeping comes after them.
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, os.Interrupt, unix.SIGTERM, unix.SIGQUIT)
	defer signal.Stop(ended)
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("namespaces for the tests: %w", err)
	}
	go func() { // ends with the program
		for sig := range ended {
			_ = cmd.Process.Signal(sig) // fails only when it has ended
		}
	}()
	var exit *exec.ExitError
	if err := cmd.Wait(); errors.As(err, &exit) {
		return max(1, exit.ExitCode()), nil
	} else if err != nil {
		return 0, err
	}
	return 0, nil
}

// sweep removes what this supervisor's tests, or those of dead ones, left on the
// machine under a name.
func sweep() error {
	var all []error
	for _, dir := range []string{"/run/netns", "/sys/fs/cgroup/freezer", "/sys/fs/cgroup/blkio", "/sys/fs/cgroup/memory", os.TempDir()} {
		left, err := filepath.Glob(filepath.Join(dir, "faulttest-*"))
		if err != nil {
			return err
		}
		for _, name := range left {
			pid, err := strconv.Atoi(strings.Split(filepath.Base(name), "-")[1])
			if err == nil && pid != os.Getpid() && unix.Kill(pid, 0) == nil {
				continue // somebody else is at work
			}
			all = append(all, remove(name))
		}
	}
	return errors.Join(all...)
}

// remove removes a name of a namespace, a control group or a directory.
func remove(name string) error {
	// A process that was killed while it was frozen dies when it is thawed, and
	// only then. Other things have no such file.
	_ = os.WriteFile(filepath.Join(name, "freezer.state"), []byte("THAWED"), 0)
	_ = unix.Unmount(name, unix.MNT_DETACH) // fails for all but namespaces
	if strings.HasPrefix(name, "/sys/") {
		return removeGroup(name)
	}
	return os.RemoveAll(name)
}

// removeGroup removes a control group once the processes in it are dead.
func removeGroup(name string) (err error) {
	for range 100 {
		if err = unix.Rmdir(name); !errors.Is(err, unix.EBUSY) {
			break
		}
		if err := pause(context.Background(), 20*time.Millisecond); err != nil {
			return err
		}
	}
	return err
}
