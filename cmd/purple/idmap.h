// Gives the pid of a process in a user namespace of its own, or -1 and errno. It
// ends with the thread that has called this, or by SIGKILL. One at a time.
int start_in_user_namespace(void);
