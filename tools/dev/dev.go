// Package dev holds what developers of Millrace need: the tools with their versions, and the list of modules.
package dev
