package member

import (
	"os/exec"
	"runtime"
	"syscall"
)

// spawner starts children from one thread that never ends: a parent-death signal is tied to the thread that forked, so
// this is what makes "no server outlives its test" hold even when the test itself is killed.
var spawner = func() chan func() {
	jobs := make(chan func())
	go func() {
		runtime.LockOSThread()
		for job := range jobs {
			job()
		}
	}()
	return jobs
}()

// Spawn starts cmd so that it dies with this process.
func Spawn(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	spawner <- func() { started <- cmd.Start() }
	return <-started
}
