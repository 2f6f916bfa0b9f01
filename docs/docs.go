// Package docs holds the pages that people read, so that `mp help` can print them. It owns text and pictures, must never
// import anything of the module, and starts at quickstart.md.
package docs

import "embed"

// Pages are the Markdown files of this folder, each under its name.
//
//go:embed *.md
var Pages embed.FS
