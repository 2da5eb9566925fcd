module relayd.test/load

go 1.24
