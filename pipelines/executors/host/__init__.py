"""The fastest CPU executor: one decode, then one compiled kernel from pixels to finished views."""
