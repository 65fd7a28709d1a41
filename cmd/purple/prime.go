package main

import "C" // prime.c, which runs before main, is a part of the program
