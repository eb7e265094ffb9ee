//go:build linux

package faulttest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// need skips a test when the machine lacks a tool, or this process the rights to
// mount.
func need(t *testing.T, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s: %v", tool, err)
		}
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// run runs a command that has to succeed and returns what it prints.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// volume is an ext4 file system in a file, on a loop device while it is mounted.
type volume struct {
	t      *testing.T
	image  string
	dir    string
	device string // while mounted
}

// newVolume makes a file system in a file of its own.
func newVolume(t *testing.T, bytes int64) *volume {
	t.Helper()
	needRoot(t)
	image := filepath.Join(t.TempDir(), "image")
	f, err := os.Create(image)
	must(t, err)
	must(t, errors.Join(f.Truncate(bytes), f.Close()))
	return newVolumeOn(t, image)
}

// newVolumeOn makes a file system in a file that is there.
func newVolumeOn(t *testing.T, image string) *volume {
	t.Helper()
	need(t, "mkfs.ext4")
	run(t, "mkfs.ext4", "-q", "-F", "-b", "4096", "-J", "size=4", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", image)
	v := &volume{t: t, image: image, dir: filepath.Join(t.TempDir(), "mnt")}
	must(t, os.Mkdir(v.dir, 0o700))
	t.Cleanup(func() {
		if v.device == "" {
			return
		}
		if err := unix.Unmount(v.dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", v.dir, err)
		}
	})
	return v
}

func (v *volume) mount() {
	v.t.Helper()
	device, err := attach(v.image)
	if err != nil {
		v.t.Skipf("needs a loop device: %v", err)
	}
	if err := unix.Mount(device.Name(), v.dir, "ext4", 0, ""); err != nil {
		v.t.Fatalf("mount %s: %v", device.Name(), errors.Join(err, device.Close()))
	}
	v.device = device.Name()
	must(v.t, device.Close())
}

// attach puts a free loop device on a file. It is detached with its last user.
func attach(image string) (device *os.File, err error) {
	backing, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, backing.Close()) }()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, control.Close()) }()
	for {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, err
		}
		device, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		err = unix.IoctlLoopConfigure(int(device.Fd()), &unix.LoopConfig{
			Fd: uint32(backing.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}})
		if err == nil {
			return device, nil
		}
		err = errors.Join(err, device.Close())
		if !errors.Is(err, unix.EBUSY) { // else somebody was faster
			return nil, err
		}
	}
}

func (v *volume) unmount() {
	v.t.Helper()
	if err := unix.Unmount(v.dir, 0); err != nil {
		v.t.Fatalf("unmount %s: %v", v.dir, err)
	}
	v.device = ""
}

// From linux/ext4.h: what the file system has not written to its journal is lost.
const (
	ext4Shutdown       = 0x8004587d
	shutdownNoLogFlush = 2
)

// cut takes the power away: from here on the file system fails, and what was not
// synced is gone when it is mounted again.
func (v *volume) cut() {
	v.t.Helper()
	f, err := os.Open(v.dir)
	must(v.t, err)
	err = unix.IoctlSetPointerInt(int(f.Fd()), ext4Shutdown, shutdownNoLogFlush)
	if errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EOPNOTSUPP) {
		v.t.Skipf("needs ext4 with shutdown: %v", err)
	}
	must(v.t, errors.Join(err, f.Close()))
}

// fill takes all space and returns what gives it back.
func (v *volume) fill() (free func()) {
	v.t.Helper()
	name := filepath.Join(v.dir, "filler")
	f, err := os.Create(name)
	must(v.t, err)
	size := int64(0)
	for piece := int64(mib); piece >= 4096; {
		err := unix.Fallocate(int(f.Fd()), 0, size, piece)
		if errors.Is(err, unix.ENOSPC) {
			piece /= 2
			continue
		}
		must(v.t, err)
		size += piece
	}
	must(v.t, f.Close())
	return func() { must(v.t, os.Remove(name)) }
}
