package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"multiraft/bench/peers/sample"
)

// program measures one library.
type program struct {
	library string
	dir     string   // its module or package, from the module of this command
	build   []string // further arguments
}

// programs are ours and its opponents.
var programs = []program{
	{library: "multiraft", dir: "core"},
	{library: "etcd raft v3.6.0", dir: "etcdraft"},
	{library: "etcd raft v3.7.0", dir: "etcdraft", build: []string{"-modfile=v3.7.0.mod", "-tags=raft370"}},
}

// module returns the directory of the module this command belongs to.
func module(ctx context.Context) (string, error) {
	out, err := output(exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Path}}\n{{.Dir}}"))
	if err != nil {
		return "", err
	}
	path, dir, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	if path != "multiraft/bench/peers" {
		return "", fmt.Errorf("this is module %s: run it with go run -C bench/peers ./corecost", path)
	}
	return dir, nil
}

// compile builds a program and returns where it is.
func (p program) compile(ctx context.Context, module, tmp string) (string, error) {
	file := filepath.Join(tmp, strings.ReplaceAll(p.library, " ", "-"))
	if runtime.GOOS == "windows" {
		file += ".exe"
	}
	args := append([]string{"build", "-o", file}, p.build...)
	cmd := exec.CommandContext(ctx, "go", append(args, ".")...) //gosec:disable G204 -- arguments are of the table of programs
	cmd.Dir = filepath.Join(module, p.dir)
	_, err := output(cmd)
	return file, err
}

// run takes one sample.
func run(ctx context.Context, file string, r row, duration time.Duration) (sample.Result, error) {
	cmd := exec.CommandContext(ctx, file, "-row", r.name, "-time", duration.String()) //gosec:disable G204 -- what compile has made
	out, err := output(cmd)
	if err != nil {
		return sample.Result{}, err
	}
	var result sample.Result
	if err := json.Unmarshal(out, &result); err != nil {
		return sample.Result{}, fmt.Errorf("%s: %w", filepath.Base(file), err)
	}
	return result, nil
}

// output runs a command; an error says what it wrote to standard error.
func output(cmd *exec.Cmd) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", filepath.Base(cmd.Path), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.Bytes(), nil
}
