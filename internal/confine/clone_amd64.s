#include "textflag.h"

#define SYS_clone 56

// func clone(flags, stack uintptr, c child) (pid uintptr, errno syscall.Errno)
//
// The kernel leaves the fork all registers but RAX, RCX and R11: what it is called
// with is kept in them, since its stack may be an empty one.
TEXT ·clone(SB), NOSPLIT, $0-48
	MOVQ	flags+0(FP), DI
	MOVQ	stack+8(FP), SI
	MOVQ	c_itable+16(FP), R12
	MOVQ	c_data+24(FP), R13
	XORL	DX, DX
	XORL	R10, R10
	XORL	R8, R8
	MOVL	$SYS_clone, AX
	SYSCALL
	TESTQ	AX, AX
	JZ	forked
	CMPQ	AX, $-4095
	JCC	failed
	MOVQ	AX, pid+32(FP)
	MOVQ	$0, errno+40(FP)
	RET
failed:
	NEGQ	AX
	MOVQ	$0, pid+32(FP)
	MOVQ	AX, errno+40(FP)
	RET
forked:
	XORL	BP, BP // there is no caller
	SUBQ	$32, SP
	ANDQ	$~15, SP
	MOVQ	R12, 0(SP)
	MOVQ	R13, 8(SP)
	CALL	·runChild(SB)
	INT	$3 // it does not return
