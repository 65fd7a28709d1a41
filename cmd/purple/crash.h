extern int crash_status;
int catch_crashes(void);
