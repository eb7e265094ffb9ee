//go:build !linux

package raftlog

import "os"

func dataSync(f *os.File) error { return f.Sync() }

func dropCache(*os.File) error { return nil }
