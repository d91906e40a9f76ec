drop table search_calibration;
