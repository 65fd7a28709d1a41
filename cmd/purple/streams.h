extern int inherited_streams[3];
