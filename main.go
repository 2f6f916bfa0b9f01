// mp trains, evaluates and attacks scene classifiers on MiniPlaces. Everything it does starts in package cmd.
package main

import (
	"os"
	"runtime"

	"mp/cmd"
)

func main() {
	runtime.UnlockOSThread() // gotorch locks the main goroutine; here each device has a thread of its own
	os.Exit(cmd.Main(os.Args[1:], os.Stdout, os.Stderr))
}
