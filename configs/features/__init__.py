"""configs/features"""
