//go:build long

package attack_test

// courseImages is how many of the ten goldens the course's attack is compared on.
const courseImages = 10
