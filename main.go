// mp trains, evaluates and attacks scene classifiers on MiniPlaces. Everything it does starts in package cmd.
package main

import (
	"os"

	"mp/cmd"
)

func main() {
	os.Exit(cmd.Main(os.Args[1:], os.Stdout, os.Stderr))
}
